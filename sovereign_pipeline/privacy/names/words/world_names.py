"""Given names and family names from outside the Gulf, in Latin letters without accents, in small letters.

What belongs here: names so common in their country that everybody knows them, written from common knowledge; no list
of persons. What does not: names of Oman and the Gulf (`gazetteer.py`), how either is used (`latin_words.py`).
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


GIVEN_WORLD = _words(
    """
    aarav aaron abbie abby abebe abigail ada adalbert adam adebayo adela adele adelina aditi aditya adolf adrian
    adriana adrienne agata agathe agnes agnieszka agustin ahmet aidan aileen aimee aino ainsley ajay akiko akira
    aksel alain alan alana alastair alba albert alberto aldo alec alejandra alejandro aleksandar aleksander
    aleksandra aleksei alena alenka alessandra alessandro alessia alex alexander alexandra alexandre alexandros
    alexei alexis alfie alfonso alfred alfredo alice alicia alicja alina alison alistair allan allen allison
    alma alois alojz alphonse alvaro alvin amalia amalie amanda amandine amara amber amelia amelie amina amit
    amrita amy ana anabel anand ananya anastasia anatoli anders andras andre andrea andreas andreea andrei
    andrej andres andrew andrey andriy andrzej andy aneta angel angela angelica angelika angelina angelo angus
    anika anil anita anja anjali ankit ann anna anna-maria annabel anne annelies annemarie annette annie annika
    anthony antje antoine antoinette anton antonella antoni antonia antonin antonina antonio antonis antti anu
    anya aoife april arianna ariel arjun arlene armand armando arnaud arne arnold art arthur artur arturo arun
    arvid asa asger asha ashish ashley ashok ashton astrid asuka attila aubrey audrey august augusta auguste
    aurelie aurora austin ava avery axel ayaka aylin ayse barbara barbora barnaby barry bart bartosz bas basil
    bastien beata beate beatrice beatrix beatriz becky bela belinda ben benedict benedikt benjamin benoit bente
    bernadette bernard bernardo bernd bernhard bert berta bertha bertil bertrand bess bessie beth bethany betsy
    betty beverley beverly bharat bianca birgit birgitta bjarne bjorn blake blanca blanka boris bozena brad
    bradley brandon branko brenda brendan brenna brent brett brian brianna bridget brigitte britta brittany
    bronislaw brooke bruce bruno bryan bryce bryony caitlin callum calvin cameron camila camilla camille can
    candice cara carina carl carla carlo carlos carlotta carly carmen carol carole carolina caroline carolyn
    carrie carsten casey casper cassandra catalina caterina catherine cathy catriona cecil cecile cecilia cedric
    celeste celia celine cem cesar chad chandra chantal charlene charles charlie charlotte chelsea chen cheryl
    chiara chidi chika chinwe chloe chris christa christel christian christiane christina christine christoph
    christophe christopher christos chukwu ciara cindy claire clara clarence clarissa claude claudia claudio
    clemence clement clifford clinton clive clyde colette colin colleen concetta connie connor conor conrad
    constance consuelo cora corey corinna corinne cornelia cornelis cornelius cory courtney craig cristian
    cristina crystal curtis cynthia cyril dagmar dagny daisuke daisy damian damien damir dan dana daniel daniela
    daniele danielle danilo danny danuta daphne darcy daria dario darius darko darlene darren darryl david
    davide dawid dean deanna debbie deborah debra declan deepa deepak deirdre delia delphine denis denise deniz
    dennis derek desmond devi devin dexter diana diane didier diego dieter dietmar dimitri dimitris dina dinesh
    dino dirk divya dmitri dmitry dmytro dolores domenico dominic dominik dominika dominique don donald donna
    donovan dora doreen dorian doris dorota dorothea dorothy doug douglas dragan drew duncan dustin dwayne dylan
    eamon earl ebba ebony eddie edgar edith edmond edmund edna eduard eduardo edward edwin edyta eero efren
    egbert egon eileen eino eirik ekaterina elaine eleanor elena eleni eleonora eli elias elif elijah elin elina
    eline elisa elisabet elisabeth elise elizabeth ella ellen ellie elliot elliott ellis elmer elodie eloise
    elsa elsie elvira emanuel emanuela emeka emiko emil emile emilia emilie emilio emily emine emma emmanuel
    emmett enrica enrico enrique enzo eric erica erich erik erika erin erkki erna ernest ernesto ernst erwin
    esben esme esmeralda esteban estelle ester esther ethan ethel etienne eugen eugene eugenia eugenie eugenio
    eunice eva evan evangelos eve evelina eveline evelyn evert ewa ewan ezra fabian fabien fabio fabrice
    fabrizio fang fatima fatma fatou federica federico felicia felicity felipe felix ferdinand ferenc fergus
    fernanda fernando filip filippo filomena finlay finn fiona flavia flavio flora florence florian floris
    frances francesca francesco francine francis francisca francisco franciszek francois francoise frank frankie
    frantisek franz franziska fred freda freddie freddy frederic frederick frederik frederique fredrik freja
    freya frida friedrich fritz fumiko fyodor gabor gabriel gabriela gabriele gabriella gabrielle gael gail
    galina ganesh gareth garry gary gaspard gaston gaurav gavin geeta gemma gene genevieve gennady geoff
    geoffrey george georges georgia georgina georgios gerald geraldine gerard gerardo gerda gerhard germaine
    gert gertrude gheorghe giacomo gianluca gianni gilbert gilberto gillian gina ginger gino giorgia giorgio
    giovanna giovanni giulia giuliana giuliano giulio giuseppe gladys glen glenda glenn gloria gopal gordana
    gordon govind graciela graeme graham grazia greg gregor gregory greta gretchen grigori grigory grzegorz
    guadalupe gudrun guido guillaume guillermo guiseppe gunilla gunnar gunther gus gustaf gustav gustavo guy
    gwen gwendolyn gwyneth gyorgy gyula hakan hakon halina hana hanna hannah hanne hannele hannes hannu hans
    hansjorg hao harald harish harold harriet harriett harry haruka haruki haruto harvey hatice hayley hazel
    heath heather heidi heike heikki heiko heinrich heinz helen helena helene helga helge helmut hendrik hennie
    henning henri henriette henrik henrique henry herbert herman hermann hermione herve hideki hideo hilary
    hilda hilde hildegard hiroko hiroshi hiroyuki hitoshi hoa holger holly homer hong horace horst howard hubert
    hugh hugo hui humberto humphrey huong ian ibrahima ichiro ida ignacio ignacy igor iker ilaria ilona ilse
    ilya imogen imre ina indira ines inga ingeborg ingemar inger ingmar ingo ingrid inka inmaculada ioana
    ioannis ion irena irene irina iris irma irmgard isaac isabel isabella isabelle isaiah isak isidore ismael
    istvan ivan ivana iveta ivo ivor ivy iwona izabela jacek jack jackie jackson jaclyn jacob jacqueline jacques
    jade jagdish jaime jakob jakub james jamie jan jana jane janet janice janine janis janos janusz jaques jared
    jarmila jaroslav jaroslava jasmin jasmine jason jasper javier jay jean jeanette jeanne jeannette jeff
    jeffery jeffrey jelena jemima jennifer jenny jens jeremiah jeremy jerome jerry jerzy jesper jess jesse
    jessica jessie jesus jia jian jill jim jimmy jing jiri jiro joachim joan joana joanna joanne joao joaquin
    jochen jodie joe joel joelle joerg johan johann johanna johannes john johnny jolanta jon jonas jonathan
    joost jordan jordi jorg jorge jorgen joris jose josef josefa josefina joseph josephine josette josh joshua
    josip josue joy joyce jozef juan juana juanita judit judith judy juha juho jules julia julian juliana
    juliane julie julien juliet juliette julio julius jun june jurgen justin justine justyna jutta jyoti kai
    kaisa kaja kalle kamil kamila kaori karel karen kari karin karina karl karla karlheinz karol karolina kasia
    kasper kata katalin katarina katarzyna kate katerina katharina katherine kathleen kathrin kathryn kathy
    katia katie katja katrin katrina katsuo katya kavita kay kayla kazimierz kazuki kazuo keiko keira keith
    kelly kelsey kemal ken kendra kenichi kenji kenneth kenny kent kerry kerstin kevin khloe kim kimberly kiran
    kirill kirsten kirstin kirsty kiyoshi kjell klara klaudia klaus knut kofi koichi konrad konstantin
    konstantinos kornel kris krishna kristian kristin kristina kristine kristof kristoffer krisztina krystyna
    krzysztof kumar kurt kwame kyle kylie kyra lachlan laila lakshmi lalita lan lana lance lara larisa larissa
    larry lars lasse laszlo laura lauren laurence laurent lauri laurie lavinia lawrence lea leah leandro leanne
    lee leena lei leif leila lena leo leon leona leonard leonardo leonid leonie leonora leopold leroy leslie
    lester leticia lewis li lia liam libby lidia liisa lila lilian liliana lillian lilly lily lina linda lindsay
    lindsey ling linh linnea lionel lisa lisbeth lise livia liz lizzie ljubica lloyd logan lois lola loredana
    lorena lorenzo loretta lori lorna lorraine lothar lotta lottie louis louisa louise luc luca lucas lucia
    luciana luciano lucie lucien lucille lucinda lucrezia lucy ludmila ludovic ludwig luigi luis luisa luiz luka
    lukas luke luna lydia lynda lyndsey lynn lynne lyudmila mabel maciej mackenzie maddison madeleine madison
    mads magda magdalena magdalene maggie magnus mahesh maia maik maimouna maja makoto maksim malcolm malgorzata
    malin malte mamadou mandy manfred manish manju manoj manon manuel manuela mara marc marcel marcela marcella
    marcelle marcello marcelo marcia marcin marco marcos marcus marek maren margaret margareta margarete
    margarita margery margherita margit margot margrethe marguerite mari maria mariana marianne mariano maribel
    marie mariella marielle marietta marika mariko marilyn marina mario marion marisa marisol marita marius
    marjatta marjorie marko markus marla marlene marlon marta martha marthe martijn martin martina martine
    martti marvin mary maryanne masako masashi massimo matej mateo mateusz mathew mathias mathieu mathilde
    mathis matias matilda matt matteo matthew matthias matthieu matti mattias maud maura maureen maurice
    mauricio maurizio mauro maxim maxime maximilian maximo maxine maya meena megan meghan mehmet mei meike
    melanie melinda melissa melvin mercedes meredith merete merle mia micaela michael michaela michal michel
    michela michele micheline michelle michiko mick midori miguel mihai mika mikael mikhail mikkel mikko mila
    milan milena milica millicent millie milo milos milton min mina mindy minh minna minoru mira miranda
    mireille mirela miriam mirjam mirka mirko miroslav miroslava misaki misty mitchell mitsuko mladen mohan
    moira molly monica monika monique montserrat morag morgan moritz morten moses moussa mukesh murat muriel
    mustafa mykola myra myriam myrtle na nadezhda nadine nadja nancy nandini naoki naoko naomi naresh natacha
    natalia natalie natalya natascha natasha nathalie nathan nathaniel neal ned neha neil nelly nelson nerea
    nestor nevena ngozi nguyen niall nicholas nick nicki nicky nicola nicolas nicole nicoletta nicolo niels
    nigel niilo nika nikhil nikita niklas niko nikola nikolai nikolaj nikolaos nikolas nikolay nikos nils nina
    ninette nino nisha nkechi noah noboru noel noelle noemi nora norbert noreen noriko norma norman nuria
    octavia octavio odette odile oksana olaf olav ole oleg oleksandr olena olesya olga olive oliver olivia
    olivier olle oluwaseun omar ondrej oona orlando ornella orsolya oscar oskar osman osvaldo oswald oswaldo
    otis ottavio otto owen pablo paige palle pamela panagiotis pankaj paola paolo pascal pascale patrice
    patricia patricio patrick patrik patrizia patryk patsy patti paul paula paulette paulina pauline paulo pavel
    pavla pavlo pawel pedro peggy pekka penelope penny per percy perla perry peter petr petra petri petros
    petter pham phil philip philipp philippa philippe phillip phoebe phyllis pia piero pierre pieter pietro
    pilar ping piotr polina pooja poppy prakash pramod prasad pratap preston priscilla priya przemyslaw qiang
    queenie quentin quincy rachel radek radka radoslav radovan rafael rafaela rafal raffaele raffaella ragnar
    ragnhild rahul raimund rainer raisa raj rajan rajendra rajesh rajiv rakesh ralf ralph ramesh ramiro ramon
    ramona randall randy ranjit raphael raquel rasmus raul ravi raymond rebecca rebekah regina reginald regine
    reiko reinhard reinhold rekha remy rena renata renate renato rene renee renzo rhoda rhona rhonda rhys
    ricardo riccardo richard rick ricky rikke riley rita robbie robert roberta roberto robin robyn rocco rocio
    rod roderick rodney rodolfo rodrigo roger rohit roland rolando rolf romain roman romana romeo romina ron
    ronald ronan ronja ronnie rory rosa rosalia rosalie rosalind rosanna rosario roseanne rosemarie rosemary
    rosie ross rowan rowena roxana roxanne roy ruben rudi rudolf rudy rufus rui rupert ruslan russell rut ruth
    ryan ryo ryszard sabina sabine sabrina sachiko sachin sadie sakura sally salvador salvatore sam samantha
    sammy samson samuel sandeep sander sandor sandra sandrine sandro sandy sangeeta sanjay santiago santino
    santosh sara sarah sarita sascha sasha saskia satish satoshi saul saverio scarlett scott sean sebastian
    sebastien seema selena selim selina selma serena serge sergei sergio serhiy seth severin severine sevgi
    shane shankar shannon shanti sharad sharon shaun shauna shawn sheila shelley shelly sheryl shigeru shinji
    shirley shiro shiva shreya sian sidney siegfried siegrid sienna sigmund signe sigrid sigurd silas silke
    silvana silvia silvio simon simona simone sinead siobhan sipho siri sissel sita sixten skye sofia sofie
    solange solveig sonal sondra sonia sonja sonya sophia sophie soren spencer stacey stacy stan stanislav
    stanislava stanislaw stanley stefan stefania stefanie stefano steffen steinar stella sten stephan stephane
    stephanie stephen steve steven stewart stig stijn stina stuart subhash sudhir sue sunil sunita suresh susan
    susana susann susanna susanne sushil susie suzanne suzette sven svenja svetlana sybille sylvain sylvester
    sylvia sylvie szabolcs szymon tabitha tadashi tadeusz takashi takeshi tamara tamas tamsin tania tanja tanya
    tara taro tatiana tatjana tatyana taylor ted teemu terence teresa teri terrence terri terry tess tessa
    tetsuya thabo thaddeus thandi thanh thea thelma theo theodor theodora theodore theresa therese thi thibault
    thierry thijs thomas thorsten tibor tiffany tiina till tilly tim timo timothy timur tina tobias toby todd
    toivo tom tomas tomasz tommaso tommy tomoko toni tony tonya tor tore torsten toshiro tove tracey tracy
    travis trevor tricia trine tristan troels trond trudy tuan tunde tuomas tuula tyler tyrone udo ugo ulla
    ulrich ulrik ulrike uma umberto ursula usha uwe vaclav vadim valentin valentina valentino valentyna valeria
    valerie valerio valery vanessa vasile vasily vasyl vaughn velma venla vera verena vernon veronica veronika
    veronique vesna vicente vicki vicky victor victoria vijay vikas vikram viktor viktoria viktorija viktoriya
    vilma vince vincent vincenzo vinod viola violeta violetta virgil virginia virginie vitaly vito vittoria
    vittorio vivek vivian viviana vivien vivienne vlad vladimir vladislav vojtech volker wade wallace wally
    walter waltraud wanda wanjiku warren wayne wei wendy werner wesley wilbur wilfred wilfried wilhelm
    wilhelmina willem william willie willy wilma wim winifred winston wojciech wolfgang xavier xenia xia xiang
    xiao ximena xin yan yang yann yannick yash yasin yasmine yelena ying yoko yolanda yong yoshiko yu yuan yuka
    yuki yukiko yulia yuliya yumi yuri yusuke yves yvette yvonne zachary zanele zbigniew zdenek zdenka zelda
    zeljko zeynep zhen zoe zofia zoltan zora zoya zsofia zsolt zuzana zygmunt
    """
)

SURNAMES_WORLD = _words(
    """
    adams adamska adamski ahlgren albrecht alcaraz allard alonso alvarez alves andersen anderson andersson
    andrade antunes arias armstrong arnold atkinson aubert bailey baker banks barbieri barbosa barker barnes
    barrett bauer baumann becker bell bennett benson berg bergman bernard bianchi bishop bjork blanc blanchard
    bosch bowers boyd bradley brandt braun briggs brooks bruno bryant burke burns burton butler byrne caldwell
    calvo campbell cardoso carlson carlsson carpenter carr carroll carter castillo castro chambers chandler
    chapman chavez chevalier christensen christiansen clarke clement cohen coleman collins conti cooper correia
    costa cox craig crawford cruz cunningham da-silva dahl daniels davidson davies davis dawson delgado deluca
    desjardins dias diaz dixon dominguez douglas doyle duarte dubois dufour dumont duncan dunn dupont duran
    durand edwards eklund elliott ellis eriksen eriksson espinoza esposito estrada evans faure fernandes
    fernandez ferrara ferrari ferreira fischer fisher fitzgerald fleming fletcher flores fontaine forsberg
    foster fournier franco francois freitas frost fuchs fuentes fuller gallagher gallo garcia gardner garnier
    gauthier gibson gil girard gomes gomez gonzales gonzalez gordon grant graves greco griffin griffiths guerin
    guerra guerrero gustafsson gutierrez guzman haas hahn hamilton hansen hanson hansson harper harris harrison
    hartmann harvey hawkins hayes heinonen henderson henriksen henry herman hernandez herrera herrmann higgins
    hill hoffman hoffmann hofmann holmberg holmes horvat horvath howard howell huber hudson hughes hunt hussein
    ivanov ivanova jackson jacobs jacobsen jakobsen james jansen janssen jansson jarvinen jenkins jennings
    jensen jimenez johansen johansson johnsen johnson johnston jonasson jones jonsson jorgensen joseph jovanovic
    kaiser karlsson kaufmann keller kelly kennedy kerr klein knight koch kohler koskinen kovac kovacevic kovacic
    kovacs kowalczyk kowalska kowalski kozlov kramer kraus krause kristensen kristiansen krol kruger kuhn kumar
    lambert lang lange larsen larson larsson laurent lawrence lawson lebedev lefebvre lehmann lehtonen leroy
    lewandowski lewis liebermann lima lindberg lindgren lindholm lindstrom lombardi lopes lopez lorenz lundberg
    lundgren lynch macdonald mackay mackenzie madsen maier makela marchetti mariani marino markovic marques
    marquez marshall martin martinez martins mason matthews maurer mayer mazur mccarthy mcdonald mcgrath
    mckenzie medina meier mendes mendez mendoza menendez mercier meyer michaud mikkelsen miller mitchell molina
    monteiro montgomery morales moreau moreira morel moreno moretti morgan morin morozov morris morrison mueller
    muller munoz murphy murray myers nagy navarro nelson neumann nguyen nicholson nielsen niemi nieminen nikolic
    nilsen nilsson novak novakova nowak nyberg obrien oconnor oliveira olofsson olsen olson olsson oneal oneill
    orlov ortega ortiz owens pacheco palmer paquette park parker patel paulsen pavlov pearson pedersen
    pellegrini perez perkins perrin persson peters petersen peterson petit petrov petrova petrovic pettersson
    phillips pichler pierce pinto popescu popov popovic poulsen powell prado pritchard quinn ramirez ramos
    ramsey rasmussen reed rees reid reilly renard reyes reynolds ribeiro ricci richards richardson richter riley
    rinaldi rivas rivera rizzo roberts robertson robinson rocha rodrigues rodriguez rogers rojas romano romero
    rosales rossi roussel roy rubio ruiz russell russo ryan sanchez sanders santana santos sauer saunders
    savolainen schaefer schafer schmid schmidt schmitt schmitz schneider scholz schroder schubert schulte
    schultz schulz schumacher schuster schwarz seppala sharma shaw sidorov silva simmons simpson singh smirnov
    smith sokolov solberg sorensen sousa souza spencer stein steiner stephens stevens stevenson stewart
    stojanovic strand strom sullivan sundberg suominen sutton svensson svoboda szabo takahashi tanaka tavares
    taylor thomas thompson thomsen thorsen torres toth tran tremblay turner underwood urban valenta vargas
    vasiliev vasquez vega ventura vera vidal vieira virtanen vogel voigt volkov wagner walker wallace walsh
    walters watanabe watkins watson webb weber wells werner wheeler whitehead wieczorek wilkinson williams
    williamson willis wilson winkler wojcik wolff wozniak wright yamamoto yilmaz zhang zhou zielinski zimmermann
    zwart
    """
)

# Everyday words, months and places that are names as well: alone they say nothing.
EVERYDAY = _words(
    """
    ada alba alma amber angel april art ash august augusta aurora austin ava baker banks bas basil bay bell ben
    bill bishop blake bob bowers brad brook brooke brooks butler can carol carpenter cem chambers chandler
    charity charlotte chase chelsea chen chris christian clay cliff clinton cook cooper cora cox craig cross
    cruz crystal daisy dale dan dawn dean deniz denver deny devin diana dixon don drew earl ebony eden elif eve
    faith fang felix finn fisher flora florence frank fuller gail gardner gene georgia ginger glen grace grant
    graves green griffin guy hall hamilton harmony hazel heath heather henry hill homer hong hope houston howard
    hudson hunt hunter ion iris ivy jack jackson jade james jan jasmine jay jean jersey jesus jia jing john
    jordan joseph joy jun june justice kaiser kay kent kim king kiran knight lambert lance lane lang laurel law
    lawrence lee lei li lily lincoln ling logan long lourdes luna madison mai major mark marshall martin mason
    matt max may mayer mei mercedes mercy merle mila milan miles min mina minh misty molly morgan moses murray
    na ned nelson nick noel nova olive orlando page paige paris park parker pat patience pearl penny per percy
    perla perry pierce pilar ping pitt poppy prado prasad preston price prince queen queenie raj ralph ray reed
    regina rene rich rick rivas river rivera rob robin rod roman rosa rose rosemary rowan roy ruby ruiz russell
    rusty sage salvador sanders sandy santiago santos selim shanti sharp shepherd sidney sierra simmons skip
    skye sofia sonny spencer stein stella sterling stevens stone strand strom sue summer sutton sydney tara
    taylor teri terry thi thomas till tim toby tom tommy tony tor tore troy tuan turner tyrone uma urban vale
    vega ventura vera veronica victor victoria viola violet virginia wade walker wallace ward warren washington
    watson wayne webb wei wellington wells wheeler white will willow winston wood woody wright xia xin yan yang
    ying yong york young yu zen
    """
)
